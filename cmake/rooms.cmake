# postbus_room(NAME USES...): the static library postbus_NAME of src/NAME/*.cpp, linked to the rooms and libraries it
# may include. A test (tests/architecture) checks that its sources include no other room.
function(postbus_room name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp ${CMAKE_SOURCE_DIR}/src/${name}/*.hpp)
  if(NOT sources)
    file(WRITE ${CMAKE_BINARY_DIR}/generated/${name}_empty.cpp "")
    set(sources ${CMAKE_BINARY_DIR}/generated/${name}_empty.cpp)
  endif()
  add_library(postbus_${name} STATIC ${sources})
  set_target_properties(postbus_${name} PROPERTIES LINKER_LANGUAGE CXX)
  target_include_directories(postbus_${name} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src> $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>
    $<BUILD_INTERFACE:${CMAKE_BINARY_DIR}/generated>)
  list(TRANSFORM ARGN PREPEND postbus_)
  target_link_libraries(postbus_${name} PUBLIC ${ARGN} Boost::headers Boost::json Boost::url fmt::fmt spdlog::spdlog
    PRIVATE $<BUILD_INTERFACE:postbus_options>)
endfunction()
