/* SPDX-License-Identifier: MIT */
/*
 * Rules kept here:
 * - Only keys that were passed are touched. Times are the server's.
 * - Lua numbers print 14 digits: versions leave through %.0f or struct.pack. '>I8' is 8 bytes, big-endian.
 * - With memory full Redis refuses a script's first write if that could need memory, and lets the rest pass. So what stores
 *   a value starts with such a write and fails whole; what invalidates starts with DEL and never fails for it.
 * - PUBLISH comes last: who gets a message finds what it tells of.
 */
#include "proto/scripts.h"

#include "base/broken.h"

/*
 * Last key and last argument of each script that reads or writes values: the epoch's name, and the epoch that is in the other
 * names. When it is another one, or lost with all the rest, these names are of the past; the client learns the new one.
 */
#if GORGE_CHECKS(EPOCH)
#define SAME_EPOCH                                                         \
  "if redis.call('GET', table.remove(KEYS)) ~= table.remove(ARGV) then\n"  \
  "  return redis.error_reply('GORGEEPOCH these names are of the past')\n" \
  "end\n"
#else
#define SAME_EPOCH "table.remove(KEYS) table.remove(ARGV)\n"
#endif

/* A fill goes on if it has the lease. */
#if GORGE_CHECKS(LEASE)
#define HAS_LEASE                              \
  "local lease = redis.call('GET', KEYS[2])\n" \
  "if not lease or string.sub(lease, 1, 8) ~= ARGV[1] then return 0 end\n"
#else
#define HAS_LEASE "local lease = redis.call('GET', KEYS[2]) or ''\n"
#endif

/*
 * The next version, higher than each before: the counter's next, or the clock in us when that is more, so that it goes on
 * rising when the counter was lost with all the rest. Second result: the clock in ms.
 */
#define NEXT_VERSION                                             \
  "local function next_version(counter)\n"                       \
  "  local t = redis.call('TIME')\n"                             \
  "  local us = t[1] * 1000000 + t[2]\n"                         \
  "  local v = tonumber(redis.call('GET', counter) or 0) or 0\n" \
  "  v = v + 1\n"                                                \
  "  if not (v > us and v < 9007199254740991) then v = us end\n" \
  "  redis.call('SET', counter, string.format('%.0f', v))\n"     \
  "  return v, math.floor(us / 1000)\n"                          \
  "end\n"

/* The current nonce of a tag, made from `fresh` when there is none; lives for ttl ms at least. */
#define TAG_NONCE                                           \
  "local function tag_nonce(key, fresh, ttl)\n"             \
  "  local tag = redis.call('GET', key)\n"                  \
  "  if not tag or #tag ~= 16 then\n"                       \
  "    tag = fresh .. string.rep('\\0', 8)\n"               \
  "    redis.call('SET', key, tag, 'PX', ttl)\n"            \
  "  elseif redis.call('PTTL', key) < tonumber(ttl) then\n" \
  "    redis.call('PEXPIRE', key, ttl)\n"                   \
  "  end\n"                                                 \
  "  return string.sub(tag, 1, 8)\n"                        \
  "end\n"

/* The i-th of the 8-byte strings in s. */
#define EIGHT                                  \
  "local function eight(s, i)\n"               \
  "  return string.sub(s, 8 * i - 7, 8 * i)\n" \
  "end\n"

/*
 * Who tells others has as last argument, but for the epoch, the partition, '' when there is only one: that decides about the format of
 * a message (message.h).
 */
#define MESSAGE                                                                                        \
  "local partition = table.remove(ARGV)\n"                                                             \
  "local function message(kind, version, previous, name)\n"                                            \
  "  if partition == '' then return string.char(1, kind) .. struct.pack('>I8', version) .. name end\n" \
  "  return string.char(2, kind) .. struct.pack('>I8I8B', version, previous, partition) .. name\n"     \
  "end\n"

/* PUBLISH of a message. */
#define TELL                                                            \
  MESSAGE                                                               \
  "local function tell(channel, kind, version, name)\n"                 \
  "  redis.call('PUBLISH', channel, message(kind, version, 0, name))\n" \
  "end\n"

/* The version of a journal's last entry, 0 when it has none. */
#define LAST_VERSION                                                                \
  "local function last_version(journal)\n"                                          \
  "  local last = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', 1)\n"         \
  "  local version = last[1] and tonumber(string.match(last[1][1], '^%d+')) or 0\n" \
  "  return version <= 9007199254740991 and version or 0\n"                         \
  "end\n"

/*
 * An invalidation, the n-th of its version: into the journal, then PUBLISH. A journal that does not take it (its last id is
 * higher than any version: the counter was tampered with) starts anew, which its readers notice.
 */
#define TELL_FOR_GOOD                                                                  \
  MESSAGE LAST_VERSION                                                                 \
      "local function tell_for_good(journal, channel, kind, version, n, name)\n"       \
      "  local previous = partition == '' and 0 or last_version(journal)\n"            \
      "  local m = message(kind, version, previous, name)\n"                           \
      "  local id = string.format('%.0f-%d', version, n)\n"                            \
      "  local r = redis.pcall('XADD', journal, 'MAXLEN', '~', '10000', id, 'm', m)\n" \
      "  if type(r) == 'table' and r.err then\n"                                       \
      "    redis.call('DEL', journal)\n"                                               \
      "    redis.call('XADD', journal, id, 'm', m)\n"                                  \
      "  end\n"                                                                        \
      "  redis.call('PUBLISH', channel, m)\n"                                          \
      "end\n"

/*
 * KEYS: value, lease, counter, tags...
 * ARGV: token, previous token, lease ms, rejected version, ttl of tags, fresh nonces
 * Returns {2, version, ttl left in ms or -1, value, tags or ''...}, {3, ms left of the lease} or {4, version, nonces...}.
 */
static const char lease_script[] = SAME_EPOCH TAG_NONCE EIGHT
    "local v = redis.call('GET', KEYS[1])\n"
    "if v and #v >= 20 and string.sub(v, 1, 2) == 'G\\1' then\n"
    "  local version = struct.unpack('>I8', v, 5)\n"
    "  local left = redis.call('PTTL', KEYS[1])\n"
    "  if version > tonumber(ARGV[4]) and version < 9007199254740992 and left ~= 0 then\n"
    "    local r = {2, version, left, v}\n"
    "    for i = 4, #KEYS do r[i + 1] = redis.call('GET', KEYS[i]) or '' end\n"
    "    return r\n"
    "  end\n"
    "end\n"
    "local lease, mark = redis.call('GET', KEYS[2]), ''\n"
    "if lease then\n"
    "  local holder = string.sub(lease, 1, 8)\n"
    "  if holder ~= ARGV[1] and holder ~= ARGV[2] then\n"
    "    if #lease == 8 then redis.pcall('APPEND', KEYS[2], 'w') end\n"
    "    local left = redis.call('PTTL', KEYS[2])\n"
    "    if left < 0 then\n"
    "      left = tonumber(ARGV[3])\n"
    "      redis.call('PEXPIRE', KEYS[2], left)\n"
    "    end\n"
    "    return {3, left}\n"
    "  end\n"
    "  mark = string.sub(lease, 9)\n"
    "end\n"
    "redis.call('SET', KEYS[2], ARGV[1] .. mark, 'PX', ARGV[3])\n"
    "local last = tonumber(redis.call('GET', KEYS[3]) or 0) or 0\n"
    "if not (last >= 0 and last <= 9007199254740991) then last = 0 end\n"
    "local r = {4, last}\n"
    "for i = 4, #KEYS do r[i - 1] = tag_nonce(KEYS[i], eight(ARGV[6], i - 3), ARGV[5]) end\n"
    "return r\n";

/*
 * KEYS: value, lease, counter, tags...
 * ARGV: token, head, seal, value, ttl, ttl of tags, nonces, channel, key, since
 * since '': the tags must still have the nonces. Else the tags were not known before: none may have been invalidated after
 * the version `since`, and the nonces are for those that do not exist yet.
 * Returns the version, or 0: refused.
 */
static const char fill_script[] = SAME_EPOCH NEXT_VERSION TAG_NONCE EIGHT TELL HAS_LEASE
    "for i = 4, #KEYS do\n"
    "  local tag = redis.call('GET', KEYS[i])\n"
    "  local good\n"
    "  if ARGV[10] == '' then\n"
    "    good = tag and string.sub(tag, 1, 8) == eight(ARGV[7], i - 3)\n"
    "  else\n"
    "    good = not tag or #tag ~= 16 or struct.unpack('>I8', tag, 9) <= tonumber(ARGV[10])\n"
    "  end\n"
    "  if not good then\n"
    "    redis.call('DEL', KEYS[2])\n"
    "    if #lease > 8 then tell(ARGV[8], 3, 0, ARGV[9]) end\n"
    "    return 0\n"
    "  end\n"
    "end\n"
    "local version, ms = next_version(KEYS[3])\n"
    "local nonces = ''\n"
    "for i = 4, #KEYS do nonces = nonces .. tag_nonce(KEYS[i], eight(ARGV[7], i - 3), ARGV[6]) end\n"
    "local value = ARGV[2] .. struct.pack('>I8I8', version, ms + ARGV[5]) .. nonces .. ARGV[3] .. ARGV[4]\n"
    "redis.call('SET', KEYS[1], value, 'PX', ARGV[5])\n"
    "redis.call('DEL', KEYS[2])\n"
    "if #lease > 8 then tell(ARGV[8], 3, version, ARGV[9]) end\n"
    "return version\n";

/* KEYS: lease. ARGV: token, channel, key. Returns 1, or 0: not the holder. */
static const char release_script[] = TELL
    "local lease = redis.call('GET', KEYS[1])\n"
    "if not lease or string.sub(lease, 1, 8) ~= ARGV[1] then return 0 end\n"
    "redis.call('DEL', KEYS[1])\n"
    "if #lease > 8 then tell(ARGV[2], 3, 0, ARGV[3]) end\n"
    "return 1\n";

/* KEYS: lease. ARGV: token, lease ms. Returns 1, or 0: not the holder. */
static const char renew_script[] =
    "local lease = redis.call('GET', KEYS[1])\n"
    "if not lease or string.sub(lease, 1, 8) ~= ARGV[1] then return 0 end\n"
    "redis.call('PEXPIRE', KEYS[1], ARGV[2])\n"
    "return 1\n";

/*
 * KEYS: value, lease, counter, journal, tags...
 * ARGV: head, seal, value, ttl, ttl of tags, fresh nonces, channel, key
 * Returns the version.
 */
static const char set_script[] = SAME_EPOCH NEXT_VERSION TAG_NONCE EIGHT TELL_FOR_GOOD
    "local version, ms = next_version(KEYS[3])\n"
    "local nonces = ''\n"
    "for i = 5, #KEYS do nonces = nonces .. tag_nonce(KEYS[i], eight(ARGV[6], i - 4), ARGV[5]) end\n"
    "local value = ARGV[1] .. struct.pack('>I8I8', version, ms + ARGV[4]) .. nonces .. ARGV[2] .. ARGV[3]\n"
    "redis.call('SET', KEYS[1], value, 'PX', ARGV[4])\n"
    "redis.call('DEL', KEYS[2])\n"
    "tell_for_good(KEYS[4], ARGV[7], 1, version, 0, ARGV[8])\n"
    "return version\n";

/*
 * KEYS: value, lease, counter, journal, record, tags..., tags of the value read...
 * ARGV: version read, life of the record, head, seal, value, ttl, ttl of tags, fresh nonces, channel, key, nonces of the value read
 * The record says that this operation has been carried out already: an answer was lost, and it is asked for again.
 * Returns the version, or 0: the value is not the one that was read.
 */
static const char update_script[] = SAME_EPOCH NEXT_VERSION TAG_NONCE EIGHT TELL_FOR_GOOD
    "local done = redis.call('GET', KEYS[5])\n"
    "if done then return tonumber(done) end\n"
    "local v, current = redis.call('GETRANGE', KEYS[1], 0, 19), 0\n"
    "if #v == 20 and string.sub(v, 1, 2) == 'G\1' then current = struct.unpack('>I8', v, 5) end\n"
    "if current > 9007199254740991 then current = 0 end\n"
    "if string.format('%.0f', current) ~= ARGV[1] then return 0 end\n"
    "local last = #KEYS - #ARGV[11] / 8\n"
    "for i = last + 1, #KEYS do\n"
    "  local tag = redis.call('GET', KEYS[i])\n"
    "  if not tag or string.sub(tag, 1, 8) ~= eight(ARGV[11], i - last) then return 0 end\n"
    "end\n"
    "local version, ms = next_version(KEYS[3])\n"
    "local nonces = ''\n"
    "for i = 6, last do nonces = nonces .. tag_nonce(KEYS[i], eight(ARGV[8], i - 5), ARGV[7]) end\n"
    "local value = ARGV[3] .. struct.pack('>I8I8', version, ms + ARGV[6]) .. nonces .. ARGV[4] .. ARGV[5]\n"
    "redis.call('SET', KEYS[1], value, 'PX', ARGV[6])\n"
    "redis.call('SET', KEYS[5], string.format('%.0f', version), 'PX', ARGV[2])\n"
    "redis.call('DEL', KEYS[2])\n"
    "tell_for_good(KEYS[4], ARGV[9], 1, version, 0, ARGV[10])\n"
    "return version\n";

/* KEYS: value, lease, counter, journal. ARGV: channel, key. Returns the version. */
static const char delete_script[] = SAME_EPOCH NEXT_VERSION TELL_FOR_GOOD
    "redis.call('DEL', KEYS[1], KEYS[2])\n"
    "local version = next_version(KEYS[3])\n"
    "tell_for_good(KEYS[4], ARGV[1], 1, version, 0, ARGV[2])\n"
    "return version\n";

/*
 * KEYS: value, counter, journal, tags... ARGV: ttl, ttl of tags, packed tags, channel, key
 * The tags are what the client believes the value to carry. Returns {0}: no such value, or it has expired; {2, begin of the value}: it carries
 * other tags; {1, version it had, version it has}. A shorter life is news for those who have a copy, and makes a new version. What it may
 * be served for as stale comes after the new ttl, too.
 */
static const char touch_script[] = SAME_EPOCH NEXT_VERSION TELL_FOR_GOOD
    "local v = redis.call('GETRANGE', KEYS[1], 0, 4351)\n"
    "if #v < 36 or string.sub(v, 1, 2) ~= 'G\1' then return {0} end\n"
    "local n, at, stale = #KEYS - 3, 37 + 8 * string.byte(v, 3), 0\n"
    "if string.byte(v, 4) >= 16 and #v >= at + 23 then\n"
    "  stale = struct.unpack('>I8', v, at)\n"
    "  at = at + 24\n"
    "end\n"
    "if string.byte(v, 3) ~= n or string.sub(v, at, at + #ARGV[3] - 1) ~= ARGV[3] then return {2, v} end\n"
    "for i = 1, n do\n"
    "  local tag = redis.call('GET', KEYS[i + 3])\n"
    "  if not tag or string.sub(tag, 1, 8) ~= string.sub(v, 13 + 8 * i, 20 + 8 * i) then return {0} end\n"
    "end\n"
    "local t = redis.call('TIME')\n"
    "local now = math.floor((t[1] * 1000000 + t[2]) / 1000)\n"
    "local before, expires = struct.unpack('>I8I8', v, 5)\n"
    "local version, life, tags = before, ARGV[1] + stale, ARGV[2] + stale\n"
    "local ends = now + life\n"
    "if expires - stale <= now then return {0} end\n"
    "if ends < expires then version = next_version(KEYS[2]) end\n"
    "redis.call('SETRANGE', KEYS[1], 4, struct.pack('>I8I8', version, ends))\n"
    "redis.call('PEXPIRE', KEYS[1], string.format('%.0f', life))\n"
    "for i = 4, #KEYS do\n"
    "  if redis.call('PTTL', KEYS[i]) < tags then redis.call('PEXPIRE', KEYS[i], string.format('%.0f', tags)) end\n"
    "end\n"
    "if version > before then tell_for_good(KEYS[3], ARGV[4], 1, version, 0, ARGV[5]) end\n"
    "return {1, before, version}\n";

/*
 * KEYS: counter, journal, tags... ARGV: channel, ttl of tags, fresh nonces, tag names... Returns the (last) version.
 * Without tag names nobody is told. With several partitions each tag that is told of has a version of its own (message.h).
 */
static const char invalidate_script[] = SAME_EPOCH NEXT_VERSION EIGHT TELL_FOR_GOOD
    "redis.call('DEL', unpack(KEYS, 3))\n"
    "local version = next_version(KEYS[1])\n"
    "for i = 3, #KEYS do\n"
    "  redis.call('SET', KEYS[i], eight(ARGV[3], i - 2) .. struct.pack('>I8', version), 'PX', ARGV[2])\n"
    "end\n"
    "local n = 0\n"
    "for i = 4, #ARGV do\n"
    "  tell_for_good(KEYS[2], ARGV[1], 2, version, n, ARGV[i])\n"
    "  if partition == '' then n = n + 1 elseif i < #ARGV then version = next_version(KEYS[1]) end\n"
    "end\n"
    "return version\n";

/*
 * KEYS: counter, journal. ARGV: cursor (a version), most entries.
 * Returns {1, entries from the cursor's own on...}, or {0, the version to go on from}: the cursor's entry is gone (trimmed, or
 * another journal), so that anything may have been missed. A journal without entries gets one, for the next cursor to stand on.
 */
static const char journal_script[] = SAME_EPOCH NEXT_VERSION
    "if ARGV[1] ~= '0' then\n"
    "  local r = redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])\n"
    "  if r[1] and string.match(r[1][1], '^%d+') == ARGV[1] then return {1, unpack(r)} end\n"
    "end\n"
    "local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)\n"
    "if last[1] then return {0, tonumber(string.match(last[1][1], '^%d+'))} end\n"
    "local version = next_version(KEYS[1])\n"
    "redis.call('DEL', KEYS[2])\n"
    "redis.call('XADD', KEYS[2], string.format('%.0f-0', version), 'm', '')\n"
    "return {0, version}\n";

/*
 * KEYS: journal. ARGV: channel, what to say. Publishes it with the version of the journal's last entry, which it returns: whoever has
 * seen that, and what was published before, has seen all invalidations up to now. 0: there is no journal.
 */
static const char heartbeat_script[] = TELL LAST_VERSION
    "local version = last_version(KEYS[1])\n"
    "tell(ARGV[1], 4, version, ARGV[2])\n"
    "return version\n";

/* KEYS: epoch, counter, journal. ARGV: channel. Returns the epoch; one that is not there is made anew, which is news for all. */
static const char epoch_script[] = NEXT_VERSION TELL_FOR_GOOD
    "local e = redis.call('GET', KEYS[1])\n"
    "if e and string.match(e, '^[1-9]%d*$') and tonumber(e) < 9007199254740992 then return tonumber(e) end\n"
    "local version = next_version(KEYS[2])\n"
    "redis.call('SET', KEYS[1], string.format('%.0f', version))\n"
    "tell_for_good(KEYS[3], ARGV[1], 5, version, 0, '')\n"
    "return version\n";

/* KEYS: epoch, counter, journal. ARGV: channel. Returns the new epoch. */
static const char clear_script[] = NEXT_VERSION TELL_FOR_GOOD
    "redis.call('DEL', KEYS[1])\n"
    "local version = next_version(KEYS[2])\n"
    "redis.call('SET', KEYS[1], string.format('%.0f', version))\n"
    "tell_for_good(KEYS[3], ARGV[1], 5, version, 0, '')\n"
    "return version\n";

const char *gorge_script_text(enum gorge_script script) {
  switch (script) {
    case GORGE_SCRIPT_LEASE: return lease_script;
    case GORGE_SCRIPT_FILL: return fill_script;
    case GORGE_SCRIPT_RELEASE: return release_script;
    case GORGE_SCRIPT_RENEW: return renew_script;
    case GORGE_SCRIPT_SET: return set_script;
    case GORGE_SCRIPT_DELETE: return delete_script;
    case GORGE_SCRIPT_INVALIDATE: return invalidate_script;
    case GORGE_SCRIPT_JOURNAL: return journal_script;
    case GORGE_SCRIPT_TOUCH: return touch_script;
    case GORGE_SCRIPT_UPDATE: return update_script;
    case GORGE_SCRIPT_HEARTBEAT: return heartbeat_script;
    case GORGE_SCRIPT_EPOCH: return epoch_script;
    case GORGE_SCRIPT_CLEAR: return clear_script;
    case GORGE_SCRIPTS: break;
  }
  return "";
}
