# The header that outside programs see names the version too.
file(STRINGS ${CMAKE_SOURCE_DIR}/include/postbus/version.hpp line REGEX "define POSTBUS_VERSION")
if(NOT line STREQUAL "#define POSTBUS_VERSION \"${PROJECT_VERSION}\"")
  message(FATAL_ERROR "include/postbus/version.hpp says '${line}', the project is ${PROJECT_VERSION}")
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/include/postbus/version.hpp)

# generated/version.hpp: what `postbus --version` names. The schema's version is the number of its last migration.
file(GLOB migrations CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/sql/migrations ${CMAKE_SOURCE_DIR}/sql/migrations/*.sql)
set(POSTBUS_SCHEMA_VERSION 0)
foreach(name IN LISTS migrations)
  if(name MATCHES "^0*([0-9]+)" AND CMAKE_MATCH_1 GREATER POSTBUS_SCHEMA_VERSION)
    set(POSTBUS_SCHEMA_VERSION ${CMAKE_MATCH_1})
  endif()
endforeach()
configure_file(${CMAKE_CURRENT_LIST_DIR}/version.hpp.in ${CMAKE_BINARY_DIR}/generated/version.hpp @ONLY)
