-- SPDX-License-Identifier: MIT
-- Redis addresses: URL to fields and back, without ever showing a password.
--
--   redis://[user[:password]@]host[:port][/db]      host: a name, an IPv4 address, or an IPv6 address in brackets
--   rediss://…                                      the same with TLS
--   unix://[user[:password]@]/path.sock[?db=N]
--
-- User, password and path may be percent-encoded. A user without a password is refused: Redis has no such login, and
-- "redis://secret@host" is usually a password in the wrong place.

local text = require "gorge.text"

local char = string.char
local find = string.find
local gsub = string.gsub
local lower = string.lower
local match = string.match
local quote = text.quote

local _M = {}

local DEFAULT_PORT = 6379
local MAX_DB = 2147483647
local MAX_HOST = 253
local MAX_PATH = 107 -- sun_path of Linux without its closing NUL
local MAX_SECRET = 1024

_M.DEFAULT_PORT = DEFAULT_PORT
_M.MAX_DB = MAX_DB
_M.MAX_SECRET = MAX_SECRET

---Hides what may be a secret in an address: the password (all of the user part when it has no colon), a port that is no number,
---and the query. Works on text that is no valid URL too.
---@param address string
---@return string
function _M.mask(address)
  local scheme = match(address, "^%a[%w+.-]*://") or ""
  local rest = address:sub(#scheme + 1)
  local userinfo, tail = match(rest, "^(.*)@(.*)$")
  local shown = scheme
  if userinfo then
    local user = match(userinfo, "^([^:/?#@]*):")
    shown = shown .. (user and user .. ":***@" or "***@")
  else
    tail = rest
  end
  tail = gsub(tail, "[?#].*$", "?***")
  local host, port = match(tail, "^([^:/]*):([^/]*)")
  if host and find(port, "%D") and not find(host, "^%[") then
    tail = host .. ":***"
  end
  return shown .. tail
end

---The same for a wrong value of an option, of any type: an address may stand where only a part of one belongs, and a key where its name does.
---@param value any
---@return any
function _M.masked(value)
  if type(value) ~= "string" then
    return value
  end
  return _M.mask((gsub(value, "%-%-%-%-%-BEGIN.*", "-----BEGIN***")))
end

---@param s string
---@return string|nil decoded nil when a `%` is not followed by two hex digits
local function percent_decode(s)
  if find(gsub(s, "%%%x%x", ""), "%", 1, true) then
    return nil
  end
  return (gsub(s, "%%(%x%x)", function(hex)
    return char(tonumber(hex, 16))
  end))
end

---Whether `host` is a host name, an IPv4 address or an IPv6 address without brackets.
---@param host string
---@return boolean
function _M.is_host(host)
  if host == "" or #host > MAX_HOST then
    return false
  end
  if find(host, ":", 1, true) then
    return find(host, "^[%x:.]+$") ~= nil and find(host, ":.*:") ~= nil
  end
  return find(host, "^[%w_][%w_.-]*$") ~= nil
end

---Whether `path` can name a unix socket: absolute, at most 107 bytes, no NUL.
---@param path string
---@return boolean
function _M.is_path(path)
  return #path > 1 and #path <= MAX_PATH and find(path, "^/") ~= nil and not find(path, "%z")
end

---The text of one Redis database for people: never a user or a password.
---@param redis { host?: string, port?: integer, path?: string, db: integer, tls?: table|boolean }
---@return string
function _M.display(redis)
  if redis.path then
    return "unix://" .. text.printable(redis.path, MAX_PATH) .. "?db=" .. redis.db
  end
  local host = find(redis.host, ":", 1, true) and "[" .. redis.host .. "]" or redis.host
  return (redis.tls and "rediss://" or "redis://") .. host .. ":" .. redis.port .. "/" .. redis.db
end

---@param digits string
---@return integer|nil db
local function parse_db(digits)
  if not find(digits, "^%d+$") or #digits > 10 then
    return nil
  end
  local db = tonumber(digits)
  return db <= MAX_DB and db or nil
end

---Reads "user:password" into `out`.
---@return string|nil problem
local function parse_userinfo(userinfo, out)
  local user, password = match(userinfo, "^([^:]*):(.*)$")
  if not user then
    return "names a user without a password (write user:password@, or :password@ for a password alone)"
  end
  user, password = percent_decode(user), percent_decode(password)
  if not user or not password then
    return "has a '%' in its user or password that is not followed by two hex digits (write '%' itself as %25)"
  end
  if password == "" then
    return "has an empty password"
  end
  if #user > MAX_SECRET or #password > MAX_SECRET then
    return "has a user or password of over " .. MAX_SECRET .. " bytes"
  end
  out.username = user ~= "" and user or nil
  out.password = password
  return nil
end

---@return string|nil problem
local function parse_tcp(authority, path, query, out)
  local host, port
  if find(authority, "^%[") then
    host, port = match(authority, "^%[([^%]]*)%](.*)$")
    if not host or not find(host, ":", 1, true) then
      return "needs an IPv6 address such as [::1] in the brackets"
    end
  else
    host, port = match(authority, "^([^:]*)(.*)$")
  end
  if host == "" then
    return "has no host"
  end
  if not _M.is_host(host) then
    return "has a malformed host (a name, an IPv4 address, or an IPv6 address in brackets)"
  end
  local digits = port == "" and "" or match(port, "^:(%d%d?%d?%d?%d?)$")
  local number = digits == "" and DEFAULT_PORT or tonumber(digits)
  if not number or number < 1 or number > 65535 then
    return "needs a port from 1 to 65535"
  end
  if query then
    return "takes no query: the database goes into the path, as in redis://host:6379/0"
  end
  local db = (path == "" or path == "/") and 0 or parse_db(path:sub(2))
  if not db then
    return "needs a database number from 0 to " .. MAX_DB .. " as its path"
  end
  out.host, out.port, out.db = host, number, db
  return nil
end

---@return string|nil problem
local function parse_unix(authority, path, query, out)
  if authority ~= "" then
    return "needs three slashes, as in unix:///path.sock"
  end
  local decoded = percent_decode(path)
  if not decoded or not _M.is_path(decoded) then
    return "needs an absolute path of at most " .. MAX_PATH .. " bytes"
  end
  local db = 0
  if query then
    db = parse_db(match(query, "^db=(.*)$") or "")
    if not db then
      return "takes no query but ?db=N with N from 0 to " .. MAX_DB
    end
  end
  out.path, out.db = decoded, db
  return nil
end

---Parses a Redis URL. Never yields; any phase.
---@param url string
---@return { host?: string, port?: integer, path?: string, username?: string, password?: string, db: integer, tls?: true }|nil fields
---@return string|nil err says what is wrong, shows the URL without secrets
function _M.parse(url)
  local scheme, rest = match(url, "^(%a[%w+.-]*)://(.*)$")
  scheme = scheme and lower(scheme)
  if scheme ~= "redis" and scheme ~= "rediss" and scheme ~= "unix" then
    return nil, "must be a URL such as redis://host:6379/0, rediss://host:6379/0 or unix:///path.sock, got " .. quote(_M.mask(url), 80)
  end
  local authority, tail = match(rest, "^([^/?#]*)(.*)$")
  local out = { tls = scheme == "rediss" or nil }
  local problem
  local userinfo, address = match(authority, "^(.*)@(.*)$")
  if userinfo then
    problem = parse_userinfo(userinfo, out)
    authority = address
  elseif find(tail, "@", 1, true) and scheme ~= "unix" then
    problem = "has a '/', '?' or '#' in its user or password (write them as %2F, %3F, %23)"
  end
  local path, query = match(tail, "^([^?#]*)%??(.*)$")
  if not problem and find(tail, "#", 1, true) then
    problem = "takes no fragment ('#' in a password or path is written %23)"
  end
  if query == "" and not find(tail, "?", 1, true) then
    query = nil
  end
  problem = problem or (scheme == "unix" and parse_unix or parse_tcp)(authority, path, query, out)
  if problem then
    return nil, problem .. ", got " .. quote(_M.mask(url), 80)
  end
  return out
end

return _M
