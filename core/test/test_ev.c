/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/ev_support.h"

static void test_commands_reach_redis_and_come_back(void **state) {
  (void)state;
  static struct asked a;
  link_to(at_path(f.redis.path), PATIENCE_MS, PATIENCE_MS);
  assert_int_equal(ask(&a, "PING"), GORGE_OK);
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_OK);
  assert_int_equal(a.type, REDIS_REPLY_STATUS);
  assert_true(f.after > 0);
  assert_false(f.done_in_kick);
  assert_int_equal(gorge_conn_connects(f.conn), 1);
}

static void test_much_more_than_socket_buffers_hold_goes_both_ways(void **state) {
  (void)state;
  enum { N = 400, SIZE = 50000 };
  static struct asked set[N], get[N];
  static char value[SIZE];
  link_to(at_path(f.redis.path), PATIENCE_MS, PATIENCE_MS);
  memset(value, 'x', sizeof value);
  for (int i = 0; i < N; i++) {
    char key[16];
    size_t key_len = (size_t)snprintf(key, sizeof key, "k%d", i);
    assert_int_equal(submit(&set[i], 3, (const char *[]){"SET", key, value}, (size_t[]){3, key_len, SIZE}), GORGE_OK);
    assert_int_equal(submit(&get[i], 2, (const char *[]){"GET", key}, (size_t[]){3, key_len}), GORGE_OK);
  }
  kick();
  assert_true(RUN_UNTIL(f.done == 2 * N, PATIENCE_MS));
  for (int i = 0; i < N; i++) {
    assert_int_equal(set[i].status, GORGE_OK);
    assert_int_equal(get[i].len, SIZE);
  }
  assert_true(turns_in(100) < 10); /* and then there is rest */
}

static void test_a_large_command_goes_out_though_nothing_comes_in(void **state) {
  (void)state;
  enum { SIZE = 8 << 20 };
  static struct asked a;
  static char bytes[1 << 20];
  size_t received = 0;
  listen_on_path(8);
  link_to(at_path(f.path), PATIENCE_MS, PATIENCE_MS);
  char *value = calloc(1, SIZE);
  assert_int_equal(submit(&a, 2, (const char *[]){"ECHO", value}, (size_t[]){4, SIZE}), GORGE_OK);
  free(value);
  kick();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  for (uint64_t start_ms = gorge_clock_ms(); received < SIZE && gorge_clock_ms() < start_ms + PATIENCE_MS;) {
    ssize_t n = recv(f.peer, bytes, sizeof bytes, 0);
    received += n > 0 ? (size_t)n : 0;
    ev_run(f.loop, EVRUN_NOWAIT);
  }
  assert_in_range(received, SIZE, SIZE + 64);
  assert_int_equal(send(f.peer, "+OK\r\n", 5, MSG_NOSIGNAL), 5);
  assert_true(RUN_UNTIL(a.status == GORGE_OK, PATIENCE_MS));
}

static void test_a_large_reply_leaves_room_for_others(void **state) {
  (void)state;
  enum { SIZE = 8 << 20 };
  static struct asked a;
  unsigned before;
  listen_on_path(8);
  link_to(at_path(f.path), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "GET");
  kick();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  assert_int_equal(fcntl(f.peer, F_SETFL, 0), 0);
  int size = SIZE;
  setsockopt(f.peer, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
  char *bulk = malloc(SIZE);
  memset(bulk, 'x', SIZE);
  char head[32];
  int head_len = snprintf(head, sizeof head, "$%d\r\n", SIZE);
  before = ev_iteration(f.loop);
  assert_int_equal(send(f.peer, head, (size_t)head_len, 0), head_len);
  fcntl(f.peer, F_SETFL, O_NONBLOCK);
  size_t sent = 0;
  while (a.status == GORGE_PENDING && ev_iteration(f.loop) - before < 10000) {
    ssize_t n = sent < SIZE ? send(f.peer, bulk + sent, SIZE - sent, MSG_NOSIGNAL)
                            : send(f.peer, "\r\n", sent == SIZE ? 2 : 0, MSG_NOSIGNAL);
    sent += n > 0 ? (size_t)n : 0;
    ev_run(f.loop, EVRUN_NOWAIT);
  }
  free(bulk);
  assert_int_equal(a.status, GORGE_OK);
  assert_int_equal(a.len, SIZE);
  assert_true(ev_iteration(f.loop) - before >= SIZE / (256 << 10)); /* never more than so much in one turn */
}

static void test_a_command_without_answer_ends_at_its_deadline(void **state) {
  (void)state;
  static struct asked a;
  listen_on_path(8);
  link_to(at_path(f.path), PATIENCE_MS, 80);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 500));
  assert_int_equal(a.status, GORGE_ERR_TIMEOUT);
  assert_int_equal(gorge_conn_state(f.conn), GORGE_CONN_READY);
}

static void test_a_later_command_with_an_earlier_deadline_ends_first(void **state) {
  (void)state;
  static struct asked a, b;
  const char *word = "PING";
  size_t len = 4;
  listen_on_path(8);
  link_to(at_path(f.path), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  b = (struct asked){.command.done = on_done, .command.deadline_ms = gorge_clock_ms() + 50, .status = GORGE_PENDING};
  assert_int_equal(gorge_conn_submit(f.conn, &b.command, 1, &word, &len, gorge_clock_ms()), GORGE_OK);
  kick();
  assert_true(RUN_UNTIL(b.status == GORGE_ERR_TIMEOUT, 500));
  assert_int_equal(a.status, GORGE_PENDING);
}

static void test_what_came_while_the_process_stood_still_is_not_late(void **state) {
  (void)state;
  static struct asked a;
  const char *word = "PING";
  size_t len = 4;
  listen_on_path(8);
  link_to(at_path(f.path), PATIENCE_MS, PATIENCE_MS);
  gorge_conn_want(f.conn);
  kick();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  a = (struct asked){.command.done = on_done, .command.deadline_ms = gorge_clock_ms() + 20, .status = GORGE_PENDING};
  assert_int_equal(gorge_conn_submit(f.conn, &a.command, 1, &word, &len, gorge_clock_ms()), GORGE_OK);
  kick();
  assert_int_equal(send(f.peer, "+PONG\r\n", 7, MSG_NOSIGNAL), 7);
  while (gorge_clock_ms() < a.command.deadline_ms + 10) {
    usleep(1000);
  }
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_OK);
}

static void test_a_connected_link_with_nothing_to_do_sleeps(void **state) {
  (void)state;
  static struct asked a;
  link_to(at_path(f.redis.path), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status == GORGE_OK, PATIENCE_MS));
  RUN_UNTIL(false, 20);
  assert_true(turns_in(200) < 6);
}

static void test_garbage_closes_the_connection(void **state) {
  (void)state;
  static struct asked a;
  listen_on_path(8);
  link_to(at_path(f.path), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  assert_int_equal(send(f.peer, "HTTP/1.1 400\r\n\r\n", 16, MSG_NOSIGNAL), 16);
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_ERR_PROTOCOL);
  assert_int_equal(gorge_conn_state(f.conn), GORGE_CONN_DOWN);
}

static void test_a_closed_connection_comes_back_when_it_is_needed(void **state) {
  (void)state;
  static struct asked a, b;
  listen_on_path(8);
  link_to(at_path(f.path), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  close(f.peer);
  f.peer = -1;
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS)); /* by its own backoff */
  assert_int_equal(gorge_conn_connects(f.conn), 2);
  assert_int_equal(ask(&b, "PING"), GORGE_OK);
  kick();
  assert_int_equal(send(f.peer, "+PONG\r\n", 7, MSG_NOSIGNAL), 7);
  assert_true(RUN_UNTIL(b.status == GORGE_OK, PATIENCE_MS));
}

static void ask_again(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  on_done(cmd, status, reply, now_ms);
  if (status != GORGE_OK) {
    const char *word = "PING";
    size_t len = 4;
    static struct asked again;
    again = (struct asked){.command.done = on_done, .status = GORGE_PENDING};
    gorge_conn_submit(f.conn, &again.command, 1, &word, &len, now_ms);
    gorge_ev_link_kick(f.link);
  }
}

static void test_destroying_a_link_ends_what_is_pending_and_leaks_nothing(void **state) {
  (void)state;
  int fds = support_count("/proc/self/fd");
  listen_on_path(64);
  f.endpoint = at_path(f.path);
  for (int i = 0; i < 300; i++) {
    static struct asked a;
    link_to(f.endpoint, 1000, 1000);
    ask(&a, "PING");
    a.command.done = ask_again; /* and nothing that a completion does brings the link back */
    kick();
    for (int turns = i % 3; turns > 0; turns--) {
      ev_run(f.loop, EVRUN_NOWAIT);
    }
    gorge_ev_link_destroy(f.link);
    f.link = NULL;
    assert_int_equal(a.status, GORGE_ERR_DOWN);
    gorge_conn_destroy(f.conn);
    f.conn = NULL;
    assert_true(accepted());
    close(f.peer);
    f.peer = -1;
  }
  assert_int_equal(support_count("/proc/self/fd"), fds + 1);
  ev_run(f.loop, 0); /* returns: no watcher is left */
}

static void destroy_link(void *ctx) {
  (void)ctx;
  gorge_ev_link_destroy(f.link);
  f.link = NULL;
}

static void test_after_may_destroy_the_link(void **state) {
  (void)state;
  static struct asked a;
  link_to(at_path(f.redis.path), PATIENCE_MS, PATIENCE_MS);
  gorge_ev_link_destroy(f.link);
  f.link = gorge_ev_link_create(f.loop, f.conn, f.endpoint, destroy_link, NULL);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(f.link == NULL, PATIENCE_MS));
  ev_run(f.loop, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, link_prepare, link_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_commands_reach_redis_and_come_back),
      TEST(test_much_more_than_socket_buffers_hold_goes_both_ways),
      TEST(test_a_large_command_goes_out_though_nothing_comes_in),
      TEST(test_a_large_reply_leaves_room_for_others),
      TEST(test_a_command_without_answer_ends_at_its_deadline),
      TEST(test_a_later_command_with_an_earlier_deadline_ends_first),
      TEST(test_what_came_while_the_process_stood_still_is_not_late),
      TEST(test_a_connected_link_with_nothing_to_do_sleeps),
      TEST(test_garbage_closes_the_connection),
      TEST(test_a_closed_connection_comes_back_when_it_is_needed),
      TEST(test_destroying_a_link_ends_what_is_pending_and_leaks_nothing),
      TEST(test_after_may_destroy_the_link),
  };
  return cmocka_run_group_tests(tests, link_begin, link_end);
}
