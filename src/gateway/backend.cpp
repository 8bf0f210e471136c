#include "gateway/backend.hpp"

namespace postbus::gateway {
namespace {

error no_streams() { return {errc::not_found, "this channel is not a stream"}; }

}  // namespace

boost::asio::awaitable<result<streams::page>> backend::read_stream(std::string, bus::start, std::size_t) { co_return no_streams(); }
boost::asio::awaitable<result<bus::start>> backend::consumer_start(std::string, std::string) { co_return no_streams(); }
boost::asio::awaitable<result<>> backend::ack(std::string, std::string, std::string) { co_return no_streams(); }

}  // namespace postbus::gateway
