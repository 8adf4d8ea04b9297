-- SPDX-License-Identifier: MIT
-- Kinds of stored bytes. The numbers are part of the layout of L1 and of the envelope in Redis (4 bits): never reuse one.

---@class gorge.codec.kind
return {
  NIL = 0, -- "no such thing": no bytes
  STRING = 1, -- the bytes themselves
  NUMBER = 2, -- decimal text that reads back as the same double; "nan", "inf", "-inf"
  BOOLEAN = 3, -- "t" or "f"
  JSON = 4, -- extended JSON of serializer "auto", strict JSON of serializer "json" (codec/json.lua)
  BUFFER = 5, -- LuaJIT string.buffer; in L1 only, because decoding it trusts the bytes
  CUSTOM = 6, -- what the encode function of a custom serializer returned
  STRUCT = 7, -- a C struct: the id of its layout, then its bytes (codec/struct.lua)
  TYPED = 8, -- the id of a schema, then BUFFER; in L1 only (codec/typed.lua)
  MSGPACK = 9, -- MessagePack (codec/msgpack.lua)
  PACKED = 10, -- a kind, then its bytes compressed (codec/packed.lua)
}
