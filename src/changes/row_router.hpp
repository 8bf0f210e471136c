#pragma once
#include <boost/unordered/unordered_flat_map.hpp>

#include <string>
#include <vector>

#include "changes/row_handler.hpp"

namespace postbus::changes {

/**
 * Shares one stream among several features: a relation's rows go to the handler that claimed it, all others to `rest`.
 * What is not about a relation (starts, commits, messages of our own SQL) goes to every handler, claimants first; a
 * handler may therefore be given the end of a transaction that held nothing of its own.
 *
 * Ownership: the handlers must outlive it. Thread: the reader's; claim() before the first stream.
 */
class row_router final : public row_handler {
public:
  explicit row_router(row_handler& rest) : all_{&rest} {}
  /** The rows of SCHEMA.NAME go to `to`. */
  void claim(std::string schema, std::string name, row_handler& to);

  void begins_at(const bus::position& from) override;
  void started(int server_version) override;
  void relation(const transaction& in, const postgres::pgoutput::relation& r) override;
  bool insert(const transaction& in, const postgres::pgoutput::insert& change, bus::batch& out) override;
  bool update(const transaction& in, const postgres::pgoutput::update& change, bus::batch& out) override;
  bool delete_(const transaction& in, const postgres::pgoutput::delete_& change, bus::batch& out) override;
  void truncate(const transaction& in, const postgres::pgoutput::truncate& change, bus::batch& out) override;
  void internal(const transaction& in, std::string_view name, std::string_view content) override;
  bool wants_to_resolve() const override;
  boost::asio::awaitable<result<>> resolve() override;
  void moved(std::size_t from) override;
  void committed(std::span<bus::event* const> events, std::size_t known) override;
  void completed() override;
  void abandoned() override;
  void lost(const bus::position& at) override;
  bool has_room() const override;
  void before_publish(bus::batch& events) override;

private:
  struct claimed {
    std::string schema, name;
    row_handler* by;
  };
  row_handler& of(std::uint32_t relation) const;

  std::vector<claimed> claims_;
  std::vector<row_handler*> all_;  ///< the last one gets what nobody claimed
  boost::unordered_flat_map<std::uint32_t, row_handler*> by_relation_;
};

}  // namespace postbus::changes
