#pragma once
#include <boost/asio/awaitable.hpp>

#include <string>

#include "feeds/view.hpp"
#include "postgres/connection.hpp"

namespace postbus::feeds {

/**
 * Gives what a subscriber asks of the feed `channel` its types: one round trip, in which PostgreSQL itself reads the literals
 * as values of their columns' types. errc::invalid_argument: the filter or the list of columns does not fit the table;
 * errc::conflict: the replica identity does not carry the filter's columns and `maybe` was not asked for, with the SQL that
 * mends it; errc::not_watched. `session` is used by nobody else meanwhile.
 */
boost::asio::awaitable<result<view::parts>> bind_view(postgres::connection& session, std::string channel, view_request asked);

}  // namespace postbus::feeds
