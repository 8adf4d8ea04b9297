-- SPDX-License-Identifier: MIT
std = "luajit"
max_line_length = 140
max_comment_line_length = 180 -- an annotation cannot be wrapped
cache = false

-- A method that ignores its self or a callback that ignores an argument is no mistake.
self = false
unused_args = false

files["lua"] = { std = "luajit+ngx_lua" }
files["examples"] = { std = "luajit+ngx_lua" }
files["spec"] = { std = "luajit+ngx_lua+busted", max_line_length = 160 }
files["rockspec"] = { std = "rockspec" }
files[".busted"] = { std = "luajit" }
