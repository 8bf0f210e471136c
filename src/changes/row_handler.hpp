#pragma once
#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <span>
#include <string_view>

#include "base/clock.hpp"
#include "bus/event.hpp"
#include "postgres/pgoutput.hpp"

namespace postbus::changes {

/** The transaction that is being read. */
struct transaction {
  std::uint64_t xid{};  ///< wide: the epoch of the 32-bit xid is filled in
  unix_micros time{};   ///< of its commit
  std::size_t first_event{};  ///< where its events begin in the batch
};

/**
 * What a feature does with the rows of the stream; it appends events to the batch it is given. Their position is set
 * when the transaction's commit is read; until then its index is 0, or of a truncate the number of its table there. All calls come on the reader's executor, in stream order, never two at a time.
 */
class row_handler {
public:
  virtual ~row_handler() = default;

  /** Tells, before started(), after which position everything will come: possibly one that came already. */
  virtual void begins_at(const bus::position&) {}
  /** A new stream begins: relations will be told anew. `server_version` as 150020. */
  virtual void started(int server_version) = 0;
  /** Views are valid during the call only. */
  virtual void relation(const transaction& in, const postgres::pgoutput::relation& r) = 0;
  /** This and the next two: false when something must be looked up first. Then nothing was added, and the change comes again after `resolve`. */
  [[nodiscard]] virtual bool insert(const transaction& in, const postgres::pgoutput::insert& change, bus::batch& out) = 0;
  [[nodiscard]] virtual bool update(const transaction& in, const postgres::pgoutput::update& change, bus::batch& out) = 0;
  [[nodiscard]] virtual bool delete_(const transaction& in, const postgres::pgoutput::delete_& change, bus::batch& out) = 0;
  virtual void truncate(const transaction& in, const postgres::pgoutput::truncate& change, bus::batch& out) = 0;
  /** A message `postbus:NAME` of Postbus's own SQL. Anyone may have forged it: it is a hint and no more. */
  virtual void internal(const transaction& in, std::string_view name, std::string_view content) = 0;

  /** True when something must be looked up before the next change can be handled: `resolve` is awaited then. */
  virtual bool wants_to_resolve() const = 0;
  /** Fails only when the database cannot be asked; the stream is then made anew. */
  virtual boost::asio::awaitable<result<>> resolve() = 0;

  /** The transaction's events from number `from` on now stand one further back: an earlier change came late (see assembler.cpp). */
  virtual void moved(std::size_t from [[maybe_unused]]) {}
  /**
   * The transaction has committed and `events`, its own in order, have their positions. Of a large one that was streamed it is
   * called piece by piece. The first `known` of them were handed out before, from a stream that broke.
   */
  virtual void committed(std::span<bus::event* const> events, std::size_t known) = 0;
  /** committed() has been told of all of the transaction. */
  virtual void completed() {}
  /** The transaction's events were dropped: it is too large, or the stream ended within it, perhaps behind some pieces. It may come again, whole. */
  virtual void abandoned() = 0;
  /** A transaction has committed there whose events were dropped; committed() was told of none of them. */
  virtual void lost(const bus::position&) {}
  /** False while what it holds of finished transactions is as much as it may: no more is read until it has room. */
  virtual bool has_room() const { return true; }
  /** `events` are about to be published, with nothing in between: the place to derive further events from them (bus::batch::derive). */
  virtual void before_publish(bus::batch&) {}
};

}  // namespace postbus::changes
