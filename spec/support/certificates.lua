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

-- The only command of all versions that takes dates is that of a whole CA.
local CA = [[
[ca]
default_ca = this
[this]
database = {{dir}}/{{name}}.index
new_certs_dir = {{dir}}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = names
x509_extensions = extensions
[names]
commonName = supplied
[extensions]
{{extensions}}
]]

local DAY = 86400

--- A certificate with its key. alt: its names, such as "DNS:redis.example,IP:127.0.0.1"; expired: it has ended.
---@param file string
---@param opts? { alt?: string, expired?: boolean }
---@return { cert: string, key: string }
function Authority:issue(file, opts)
  opts = opts or {}
  local path = ("%s/%s"):format(self.dir, file)
  local cert, key, request, config = path .. ".pem", path .. ".key", path .. ".csr", path .. ".conf"
  local ends = os.time() + (opts.expired and -DAY or DAY)
  new_key(key)
  openssl("req", "-new", "-key", key, "-out", request, "-subj", "/CN=" .. file)
  process.write_file(("%s/%s.index"):format(self.dir, self.name), "")
  local values = { dir = self.dir, name = self.name, extensions = opts.alt and "subjectAltName=" .. opts.alt or "" }
  process.write_file(config, (CA:gsub("{{(%w+)}}", values)))
  openssl("ca", "-batch", "-notext", "-config", config, "-in", request, "-out", cert, "-cert", self.ca, "-keyfile", self.key,
    "-startdate", os.date("!%Y%m%d%H%M%SZ", ends - 2 * DAY), "-enddate", os.date("!%Y%m%d%H%M%SZ", ends))
  return { cert = cert, key = key }
end

return _M
