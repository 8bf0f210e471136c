# generated/version.hpp: what `postbus --version` names. The schema's version is the number of its last migration.
file(GLOB migrations CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/sql/migrations ${CMAKE_SOURCE_DIR}/sql/migrations/*.sql)
set(POSTBUS_SCHEMA_VERSION 0)
foreach(name IN LISTS migrations)
  if(name MATCHES "^0*([0-9]+)" AND CMAKE_MATCH_1 GREATER POSTBUS_SCHEMA_VERSION)
    set(POSTBUS_SCHEMA_VERSION ${CMAKE_MATCH_1})
  endif()
endforeach()
configure_file(${CMAKE_CURRENT_LIST_DIR}/version.hpp.in ${CMAKE_BINARY_DIR}/generated/version.hpp @ONLY)
