-- SPDX-License-Identifier: MIT
--- CAs and certificates of a test's own, made by openssl in a folder of their own.
local process = require "spec.support.process"

local _M = {}

---@class gorge.spec.Authority
---@field dir string
---@field ca string path of its certificate
---@field key string path of its key
local Authority = {}
Authority.__index = Authority

local function openssl(...)
  local status, output = process.run { "openssl", ... }
  assert(status == 0, output)
end

local function new_key(path)
  openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
  assert(process.run { "chmod", "644", path } == 0) -- workers of nginx run as another user
end

---@param dir string an empty folder
---@param name string
---@return gorge.spec.Authority
function _M.authority(dir, name)
  local self = setmetatable({ dir = dir, name = name, ca = ("%s/%s.pem"):format(dir, name), key = ("%s/%s.key"):format(dir, name) }, Authority)
  new_key(self.key)
  openssl("req", "-x509", "-new", "-key", self.key, "-out", self.ca, "-days", "2", "-subj", "/CN=" .. name,
    "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
  return self
end

--- A certificate with its key. alt: its names, such as "DNS:redis.example,IP:127.0.0.1"; days: how long it holds from now
--- on, negative: it has ended.
---@param file string
---@param opts? { alt?: string, days?: integer }
---@return { cert: string, key: string }
function Authority:issue(file, opts)
  opts = opts or {}
  local path = ("%s/%s"):format(self.dir, file)
  local cert, key, request, extensions = path .. ".pem", path .. ".key", path .. ".csr", path .. ".ext"
  new_key(key)
  openssl("req", "-new", "-key", key, "-out", request, "-subj", "/CN=" .. file)
  process.write_file(extensions, opts.alt and "subjectAltName=" .. opts.alt .. "\n" or "")
  openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key, "-CAcreateserial", "-out", cert,
    "-days", tostring(opts.days or 1), "-extfile", extensions)
  return { cert = cert, key = key }
end

return _M
