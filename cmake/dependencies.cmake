# What Postbus stands on. Boost is linked statically; libpq and OpenSSL stay dynamic, so that their security updates reach a
# running binary, and so do fmt, spdlog and toml++, of which Debian has no archives.
set(Boost_USE_STATIC_LIBS ON)
find_package(Boost 1.81.0 EXACT CONFIG REQUIRED COMPONENTS json url)
find_package(PostgreSQL REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Threads REQUIRED)

# Asio's bodies are compiled once, here, and not in every source that includes it.
add_library(postbus_asio STATIC ${CMAKE_SOURCE_DIR}/cmake/asio.cpp)
target_compile_definitions(postbus_asio PUBLIC BOOST_ASIO_SEPARATE_COMPILATION BOOST_ASIO_NO_DEPRECATED)
target_link_libraries(postbus_asio PUBLIC Boost::headers Threads::Threads)

add_library(postbus_libpq INTERFACE)
target_link_libraries(postbus_libpq INTERFACE PostgreSQL::PostgreSQL)

add_library(postbus_openssl INTERFACE)
target_link_libraries(postbus_openssl INTERFACE OpenSSL::SSL OpenSSL::Crypto)

# Debian's package is the compiled library. Its own cmake file does not say so, hence the two definitions.
find_library(TOMLPLUSPLUS_LIBRARY tomlplusplus REQUIRED)
add_library(postbus_toml INTERFACE)
target_compile_definitions(postbus_toml INTERFACE TOML_HEADER_ONLY=0 TOML_SHARED_LIB=1 TOML_EXCEPTIONS=1)
target_link_libraries(postbus_toml INTERFACE ${TOMLPLUSPLUS_LIBRARY})

# Everything that every source of ours is compiled with.
add_library(postbus_options INTERFACE)
target_compile_options(postbus_options INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
target_link_options(postbus_options INTERFACE -fuse-ld=lld-19)
if(POSTBUS_SANITIZE)
  add_compile_options(-fsanitize=${POSTBUS_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${POSTBUS_SANITIZE})
endif()
if(POSTBUS_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)  # the fuzzer steers by coverage of the rooms, not of its target alone
endif()
