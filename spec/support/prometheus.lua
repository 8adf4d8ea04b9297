-- SPDX-License-Identifier: MIT
--- Stands for nginx-lua-prometheus where it is not installed: those of its functions that the example calls, on the same shared dictionary.
local _M = {}

local Metric = {}
Metric.__index = Metric

local function series(metric, suffix, values)
  local parts = {}
  for i, name in ipairs(metric.labels) do
    parts[i] = ("%s=%q"):format(name, assert(values[i], "no value for the label " .. name))
  end
  assert(#values == #metric.labels, "one value for each label")
  return metric.name .. suffix .. "{" .. table.concat(parts, ",") .. "}"
end

function Metric:inc(by, values)
  assert(self.kind == "counter")
  self.dict:incr(series(self, "", values), by, 0)
end

function Metric:observe(value, values)
  assert(self.kind == "histogram" and type(value) == "number")
  self.dict:incr(series(self, "_count", values), 1, 0)
  self.dict:incr(series(self, "_sum", values), value, 0)
end

local Registry = {}
Registry.__index = Registry

function Registry:metric(kind, name, help, labels)
  assert(type(help) == "string")
  return setmetatable({ kind = kind, name = name, labels = labels, dict = self.dict }, Metric)
end

function Registry:counter(...) return self:metric("counter", ...) end

function Registry:histogram(...) return self:metric("histogram", ...) end

function Registry:init_worker() self.ready = true end

function Registry:collect()
  assert(self.ready, "init_worker was not called")
  for _, key in ipairs(self.dict:get_keys(0)) do
    ngx.say(key, " ", self.dict:get(key))
  end
end

function _M.init(dict)
  return setmetatable({ dict = assert(ngx.shared[dict]) }, Registry)
end

return _M
