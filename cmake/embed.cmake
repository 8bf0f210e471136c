# Files that travel inside the binary: SQL (migrations, named statements, the examples that the demo plays) and the built
# web page. Each is turned into a C++ array by cmake itself at build time, so no tool beside cmake is needed.

# postbus_embed(TARGET NAMESPACE FILES...) adds generated/NAMESPACE.hpp with `constexpr embedded_file NAMESPACE::files[]`.
function(postbus_embed target namespace root)
  set(out ${CMAKE_BINARY_DIR}/generated/${namespace})
  add_custom_command(OUTPUT ${out}.hpp ${out}.cpp
    COMMAND ${CMAKE_COMMAND} -DOUT=${out} -DNAMESPACE=${namespace} -DROOT=${root} "-DFILES=${ARGN}"
            -P ${CMAKE_SOURCE_DIR}/cmake/embed_files.cmake
    DEPENDS ${ARGN} ${CMAKE_SOURCE_DIR}/cmake/embed_files.cmake VERBATIM)
  target_sources(${target} PRIVATE ${out}.cpp ${out}.hpp)
endfunction()

function(postbus_embed_sql target)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/sql/*.sql)
  postbus_embed(${target} embedded_sql ${CMAKE_SOURCE_DIR}/sql ${files})
endfunction()

function(postbus_embed_web target)
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/web/dist/index.html)
    execute_process(COMMAND ${CMAKE_SOURCE_DIR}/dev page COMMAND_ERROR_IS_FATAL ANY)
  endif()
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/web/dist/*)
  postbus_embed(${target} embedded_web ${CMAKE_SOURCE_DIR}/web/dist ${files})
endfunction()

function(postbus_embed_examples target)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/examples/*.sql)
  postbus_embed(${target} embedded_examples ${CMAKE_SOURCE_DIR}/examples ${files})
endfunction()
