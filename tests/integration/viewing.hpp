#pragma once
#include <boost/json.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bus/shard.hpp"
#include "change_rig.hpp"
#include "feeds/binding.hpp"

namespace postbus::testing_support {

/** "update {…} old {…} maybe": an event's kind, and what its payload has of these. */
inline std::string short_form(const bus::event& e) {
  std::string text{bus::to_text(e.kind)};
  if (e.kind == bus::kind::gap) return text;
  const auto payload = boost::json::parse({e.payload.data(), e.payload.size()}).as_object();
  if (payload.contains("data")) text += ' ' + boost::json::serialize(payload.at("data"));
  if (payload.contains("old")) text += " old " + boost::json::serialize(payload.at("old"));
  if (payload.contains("maybe")) text += " maybe";
  return text;
}

/** Views of one rig and what their subscribers are given. */
class viewing : public bus::listener {
public:
  viewing(change_rig& r, const database& db) : rig_{r}, url_{db.url()}, shard_{r.hub, {}, [] {}} {}
  ~viewing() override {
    for (const auto& v : views_) shard_.unsubscribe(*this, v->channel());
  }

  result<std::shared_ptr<const feeds::view>> open(const std::string& table, feeds::view_request asked) {
    result<std::shared_ptr<const feeds::view>> opened = error{};
    run(rig_.loop, open_here("table:public." + table, std::move(asked), opened));
    return opened;
  }
  /** Opens a view and subscribes to it; what comes is put into `got`. */
  std::shared_ptr<const feeds::view> see(const std::string& table, feeds::view_request asked, const bus::start& from = bus::from_now{}) {
    auto opened = open(table, std::move(asked));
    if (!opened) throw std::runtime_error(opened.error().text + " / " + opened.error().detail);
    const auto given = shard_.subscribe(*this, (*opened)->channel(), from, (*opened)->feed());
    for (const auto& e : feeds::replay_through(**opened, given.events)) got.push_back(short_form(*e));
    views_.push_back(*opened);
    return *opened;
  }
  void on_event(bus::topic&, const bus::event_ref& e) override { got.push_back(e->kind == bus::kind::ended ? "ended" : short_form(*e)); }
  const std::vector<std::string>& after(const database& db) {
    rig_.catch_up(db);
    shard_.deliver();
    return got;
  }

  std::vector<std::string> got;

private:
  boost::asio::awaitable<void> open_here(std::string channel, feeds::view_request asked, result<std::shared_ptr<const feeds::view>>& into) {
    if (!session_) {
      auto made = co_await postgres::connection::open({.conninfo = url_});
      session_.emplace(std::move(made.value()));
    }
    auto bound = co_await feeds::bind_view(*session_, std::move(channel), std::move(asked));
    if (bound)
      into = rig_.feeds->views().open(std::move(*bound), rig_.loop.get_executor());
    else
      into = bound.error();
  }

  change_rig& rig_;
  std::string url_;
  std::optional<postgres::connection> session_;
  bus::shard shard_;
  std::vector<std::shared_ptr<const feeds::view>> views_;
};

}  // namespace postbus::testing_support
