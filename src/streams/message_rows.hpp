#pragma once
#include <array>
#include <vector>

#include "changes/row_handler.hpp"
#include "streams/recorder.hpp"

namespace postbus::streams {

/**
 * Makes the rows of postbus.messages the events of their channels, and tells the recorder where each stands once its
 * commit is read. Claims that relation at the reader's row_router. Thread: the reader's. `to` must outlive it.
 */
class message_rows final : public changes::row_handler {
public:
  explicit message_rows(recorder& to) : recorder_{to} {}

  void begins_at(const bus::position& from) override { recorder_.begins_at(from); }
  void started(int) override { columns_known_ = false; }
  void relation(const changes::transaction& in, const postgres::pgoutput::relation& r) override;
  bool insert(const changes::transaction& in, const postgres::pgoutput::insert& change, bus::batch& out) override;
  // Nothing of ours updates or deletes a message; segments are emptied by TRUNCATE, which is no event.
  bool update(const changes::transaction&, const postgres::pgoutput::update&, bus::batch&) override { return true; }
  bool delete_(const changes::transaction&, const postgres::pgoutput::delete_&, bus::batch&) override { return true; }
  void truncate(const changes::transaction&, const postgres::pgoutput::truncate&, bus::batch&) override {}
  void internal(const changes::transaction& in, std::string_view name, std::string_view content) override;
  bool wants_to_resolve() const override { return false; }
  boost::asio::awaitable<result<>> resolve() override;
  void moved(std::size_t from) override;
  void committed(std::span<bus::event* const> events, std::size_t known) override;
  void completed() override { recorder_.complete(); }
  void abandoned() override {
    pending_.clear();
    recorder_.abandon();
  }
  void lost(const bus::position& at) override { recorder_.missed(at); }
  bool has_room() const override { return recorder_.has_room(); }

private:
  enum column { id, segment, is_json, channel, payload, used_columns };
  struct pending {
    std::size_t event;  ///< which of the transaction's events it is
    recorder::message message;
  };

  recorder& recorder_;
  std::array<std::size_t, used_columns> places_{};  ///< where each stands in a row
  bool columns_known_{};
  std::uint64_t xid_{};  ///< of the transaction that pending_ belongs to
  std::vector<pending> pending_;
};

}  // namespace postbus::streams
