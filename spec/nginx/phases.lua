-- SPDX-License-Identifier: MIT
--- Runs the Lua code of a request's header in the phases of that request.
local app = require "spec.nginx.app"
local cjson = require "cjson"

local _M = {}

local function run(phase, code, id)
  local chunk = setfenv(assert(loadstring(code, "=probe")), app)
  local ok, result = pcall(chunk, phase)
  if not ok then
    result = { raised = tostring(result) }
  end
  app.counts:set(("result %s %s"):format(phase, id), cjson.encode(result))
end

---@param phase string
function _M.probe(phase)
  run(phase, ngx.var.http_code, ngx.var.http_probe)
end

--- For a phase that runs several times in a request.
---@param phase string
function _M.probe_once(phase)
  if not ngx.ctx[phase] then
    ngx.ctx[phase] = true
    _M.probe(phase)
  end
end

function _M.content()
  local code, id = ngx.var.http_code, ngx.var.http_probe
  run("content", code, id)
  assert(ngx.timer.at(0, function() run("timer", code, id) end))
  ngx.print "done"
end

return _M
