-- SPDX-License-Identifier: MIT
-- The same module under the name that OpenResty users look for.
return require "gorge"
