-- SPDX-License-Identifier: MIT
-- ngx_gorge_module, where nginx has loaded it (core/nginx): it moves Redis bytes in nginx's own event loop, and posts the semaphores of those who wait.
-- It takes the place of pump and doorbell.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local semaphore = require "ngx.semaphore"
local timer = require "gorge.hosts.nginx_timer"

ffi.cdef [[
typedef struct ngx_gorge_link_s ngx_gorge_link_t;
ngx_gorge_link_t *ngx_gorge_open(const struct gorge_io_calls *calls, gorge_cache *cache, int (*post)(void *semaphore, int n), void *news,
  const char **problem);
void ngx_gorge_kick(ngx_gorge_link_t *link);
int ngx_gorge_listen(ngx_gorge_link_t *link, int bell_fd);
void ngx_gorge_close(ngx_gorge_link_t *link);
]]

local nginx = ffi.C
local op_waiter = C.gorge_op_waiter
local LOOK_AROUND = 0.25

local _M = {}

_M.engines = {} -- those with a link: C knows their handles, which must not be collected

local function symbol()
  return nginx.ngx_gorge_open ~= nil and nginx.ngx_http_lua_ffi_sema_post ~= nil
end

---@return boolean
function _M.loaded()
  return (pcall(symbol))
end

local function refuse(engine, problem)
  engine.link = false
  ngx.log(ngx.ERR, "gorge: ngx_gorge_module is loaded but of no use, cosockets take its place: ", problem)
  return false
end

---Gives the engine its link in this worker, the first time.
---@param engine gorge.Engine
---@return ffi.cdata*|false
function _M.open(engine)
  if engine.inline or not _M.loaded() then
    engine.link = false
    return false
  end
  local news, err = semaphore.new(0)
  if not news then
    return refuse(engine, err)
  elseif type(news.sem) ~= "cdata" then
    return refuse(engine, "this ngx.semaphore is not lua-resty-core's")
  end
  local problem = ffi.new "const char *[1]"
  local post = ffi.cast("int (*)(void *, int)", nginx.ngx_http_lua_ffi_sema_post)
  local link = nginx.ngx_gorge_open(C.gorge_io_calls(), engine.handle, post, news.sem, problem)
  if link == nil then
    return refuse(engine, ffi.string(problem[0]))
  end
  engine.link, engine.news = link, news
  _M.engines[engine] = true
  ngx.log(ngx.INFO, "gorge: ngx_gorge_module moves the bytes of this worker")
  return link
end

function _M.kick(engine)
  nginx.ngx_gorge_kick(engine.link)
end

local function listen(engine)
  engine.listening = true
  local fd = C.gorge_bell_fd(engine.handle)
  if (fd < 0 or nginx.ngx_gorge_listen(engine.link, fd) ~= 0) and not engine.bell_logged then
    engine.bell_logged = true
    ngx.log(ngx.WARN, "gorge: no doorbell: waiters look every lock_sleep")
  end
end

---A semaphore is posted whenever the operation's status changes.
---@param engine gorge.Engine
---@param op integer
---@param sema table ngx.semaphore; it must live until the operation is freed or `unwatch` is called
function _M.watch(engine, op, sema)
  op_waiter(engine.handle, op, sema.sem)
end

function _M.unwatch(engine, op)
  op_waiter(engine.handle, op, nil)
end

---An operation of this worker begins to wait for others.
---@param engine gorge.Engine
function _M.expect(engine)
  if not engine.listening then
    listen(engine)
  end
end

-- What C cannot do: tell in Lua that an operation went away without its coroutine. Runs while somebody may follow one.
local function look_for_news(premature, engine)
  engine.looking.running = true
  while not premature and not engine.closed do
    engine.news:wait(LOOK_AROUND)
    if engine.closed then
      break
    end
    engine:poll()
    if engine:pending() == 0 then
      break
    end
  end
  engine.looking.running = false
end

---A coroutine begins to wait for another's operation.
---@param engine gorge.Engine
function _M.follow(engine)
  _M.expect(engine)
  local place = engine.looking
  if not place then
    place = { running = false }
    engine.looking = place
  end
  if not place.running or timer.lost(place) then
    place.running = timer.ask(place, look_for_news, engine) -- without a timer who follows looks every second
  end
end

---@param engine gorge.Engine
function _M.close(engine)
  _M.engines[engine] = nil
  nginx.ngx_gorge_close(engine.link)
  engine.link = false
  engine.news:post(1)
end

return _M
