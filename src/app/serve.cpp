#include "app/serve.hpp"

namespace postbus::app {

int serve(const serve_options&) {
  log::error("serve", "the gateway is not part of this build");
  return 1;
}

}  // namespace postbus::app
