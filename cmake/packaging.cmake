# What `cmake --install` puts where: the program, the libraries an outside project links (postbus::client, postbus::embed and
# what those stand on, as archives) with their headers, and the papers.
install(TARGETS postbus RUNTIME COMPONENT program)
install(FILES LICENSE THIRD_PARTY.md CHANGELOG.md README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)

set(POSTBUS_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/postbus)
set(exported postbus_asio postbus_openssl postbus_base postbus_bus postbus_client)
if(TARGET postbus_embed)
  list(APPEND exported postbus_libpq postbus_postgres postbus_changes postbus_feeds postbus_embed)
  target_compile_features(postbus_embed PUBLIC cxx_std_20)
endif()
foreach(target IN LISTS exported)
  string(REPLACE postbus_ "" name ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
endforeach()
target_compile_features(postbus_client PUBLIC cxx_std_20)
install(TARGETS ${exported} EXPORT postbus
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/postbus COMPONENT library
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/postbus DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library FILES_MATCHING PATTERN "*.hpp")

include(CMakePackageConfigHelpers)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/postbus-config.cmake.in ${CMAKE_BINARY_DIR}/generated/postbus-config.cmake
  INSTALL_DESTINATION ${POSTBUS_PACKAGE_DIR} NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/generated/postbus-config-version.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT postbus NAMESPACE postbus:: FILE postbus-targets.cmake DESTINATION ${POSTBUS_PACKAGE_DIR} COMPONENT library)
install(FILES ${CMAKE_BINARY_DIR}/generated/postbus-config.cmake ${CMAKE_BINARY_DIR}/generated/postbus-config-version.cmake
  DESTINATION ${POSTBUS_PACKAGE_DIR} COMPONENT library)
