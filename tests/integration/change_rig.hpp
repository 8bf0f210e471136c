#pragma once
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bus/hub.hpp"
#include "changes/reader.hpp"
#include "changes/row_router.hpp"
#include "feeds/mirror.hpp"
#include "feeds/table_feeds.hpp"
#include "streams/message_rows.hpp"
#include "streams/store.hpp"
#include "support/cluster.hpp"
#include "support/coroutine.hpp"
#include "support/proxy.hpp"

namespace postbus::testing_support {

/** For a rig's `adjust`: a permanent slot, whose server soon hears how far the reader is. */
inline void permanent(changes::reader_options& o) {
  o.slot = {.wanted = changes::slot_choice::permanent, .patience = std::chrono::seconds{3}};
  o.pulse.feedback_every = std::chrono::milliseconds{20};
}

/** A reader of one database with feeds and mirror, and the hub it fills, on one loop that runs while something is awaited. */
class change_rig {
public:
  using adjustment = std::function<void(changes::reader_options&)>;
  explicit change_rig(const database& db, const adjustment& adjust = {}, bus::hub_limits limits = {},
                      std::size_t recorder_holds = 256u << 20)
      : network{loop.get_executor(), db.on().server().port()}, hub{limits} {
    changes::reader_options options;
    options.conninfo = options.conninfo_direct = db.url();
    options.recorded = [this] { return recorder->recorded_lsn(); };
    options.retry = {.first = std::chrono::milliseconds{20}, .most = std::chrono::milliseconds{200}};
    direct_through_network =
        fmt::format("postgresql://postgres:{}@127.0.0.1:{}/{}", db.on().server().password(), network.port(), db.name());
    if (adjust) adjust(options);
    if (options.conninfo_direct.empty()) options.conninfo_direct = direct_through_network;
    mirror = std::make_unique<feeds::mirror>(loop.get_executor(), feeds::mirror::settings{.conninfo = options.conninfo}, hub);
    feeds = std::make_unique<feeds::table_feeds>(std::make_unique<feeds::database_catalog>(options.conninfo), mirror.get());
    recorder =
        std::make_unique<streams::recorder>(loop.get_executor(),
                                            streams::recorder::settings{.conninfo = options.conninfo,
                                                                        .gather = std::chrono::milliseconds{2},
                                                                        .follow = std::chrono::milliseconds{20},
                                                                        .maintain = std::chrono::milliseconds{20},
                                                                        .note = {},
                                                                        .reading = [this] { return reader->status().reading(); },
                                                                        .instance = [this] { return reader->status().identity.instance; },
                                                                        .yield = std::chrono::seconds{3},
                                                                        .most_held = recorder_holds},
                                            hub);
    messages = std::make_unique<streams::message_rows>(*recorder);
    store = std::make_unique<streams::store>(loop.get_executor(), streams::store::settings{.conninfo = options.conninfo}, *recorder, hub);
    router = std::make_unique<changes::row_router>(*feeds);
    router->claim("postbus", "messages", *messages);
    reader = std::make_unique<changes::reader>(loop.get_executor(), std::move(options), hub, router.get());
  }
  ~change_rig() { stop(); }

  /** Starts everything and returns when it streams. */
  void start() {
    for (auto& work : running_) work = true;
    const auto spawn = [this](boost::asio::awaitable<void> work, bool& flag) {
      boost::asio::co_spawn(loop, std::move(work), [&flag](std::exception_ptr thrown) {
        flag = false;
        if (thrown) std::rethrow_exception(thrown);
      });
    };
    spawn(reader->run(), running_[0]);
    spawn(reader->beside(), running_[1]);
    spawn(mirror->run(), running_[2]);
    spawn(recorder->run(), running_[3]);
    wait([this] { return reader->status().ready(); });
    begun_ = hub.head();
  }
  void stop() {
    if (std::ranges::none_of(running_, std::identity{})) return;
    reader->stop();
    mirror->stop();
    recorder->stop();
    store->close();
    wait([this] { return std::ranges::none_of(running_, std::identity{}); });
  }
  /** Runs the loop until `holds()`. */
  void wait(std::function<bool()> holds) { run(loop, until(std::move(holds))); }

  /** What a listener of `channel` that resumes from the start is given: gaps and resets too. */
  std::vector<bus::event_ref> events(std::string_view channel) const { return hub.history(channel, begun_).events; }
  /** Waits for `count` events on `channel` and returns their payloads. */
  std::vector<std::string> payloads(const std::string& channel, std::size_t count) {
    wait([&] { return events(channel).size() >= count; });
    std::vector<std::string> all;
    for (const auto& e : events(channel)) all.emplace_back(e->payload);
    return all;
  }
  /** Returns when everything that is committed now has been published. */
  void catch_up(const database& db) {
    const auto at = bus::parse_position(db.psql("select pg_logical_emit_message(true, 'other', ''); select postbus.position()")).value();
    wait([&] { return hub.head() >= at; });
  }
  /** As catch_up, and returns when the places of all stream messages among it are written down. */
  void catch_up_and_record(const database& db) {
    catch_up(db);
    const auto head = hub.head();
    wait([&] { return recorder->recorded() >= bus::position{head.epoch, head.lsn, 0}; });
  }

  boost::asio::io_context loop;
  proxy network;  ///< in front of the server; the direct sessions go through it where `adjust` clears conninfo_direct
  bus::hub hub;
  std::unique_ptr<feeds::mirror> mirror;
  std::unique_ptr<feeds::table_feeds> feeds;
  std::unique_ptr<streams::recorder> recorder;
  std::unique_ptr<streams::message_rows> messages;
  std::unique_ptr<streams::store> store;
  std::unique_ptr<changes::row_router> router;
  std::unique_ptr<changes::reader> reader;

private:
  std::string direct_through_network;
  bus::position begun_{};
  bool running_[4]{};
};

}  // namespace postbus::testing_support
