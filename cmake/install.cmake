# What `cmake --install` puts where. Everything is relative to the prefix, so an installed tree can be moved.
include(CMakePackageConfigHelpers)

set_target_properties(holdfast_shared PROPERTIES EXPORT_NAME holdfast)
set_target_properties(holdfast_static PROPERTIES EXPORT_NAME static)
install(TARGETS holdfast_shared holdfast_static EXPORT holdfast-targets
	LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS holdfast RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET holdfast_malloc)
	# Beside libholdfast.so.0, which it loads from its own folder.
	install(TARGETS holdfast_malloc LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/holdfast DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

# pkg-config: from the folder of holdfast.pc up to the prefix.
file(RELATIVE_PATH HF_PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" HF_PC_TO_PREFIX "${HF_PC_TO_PREFIX}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/holdfast.pc.in ${CMAKE_BINARY_DIR}/holdfast.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/holdfast.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/holdfast)
install(EXPORT holdfast-targets NAMESPACE holdfast:: DESTINATION ${package_folder})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/holdfast-config.cmake.in ${CMAKE_BINARY_DIR}/holdfast-config.cmake
	INSTALL_DESTINATION ${package_folder} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor release may change the API.
write_basic_package_version_file(${CMAKE_BINARY_DIR}/holdfast-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/holdfast-config.cmake ${CMAKE_BINARY_DIR}/holdfast-config-version.cmake
	DESTINATION ${package_folder})

# Man pages; and for each other name in a page's NAME section a page that points to it.
file(GLOB man_pages CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/man/*.[1-8])
foreach(page ${man_pages})
	get_filename_component(file ${page} NAME)
	string(REGEX MATCH "[1-8]$" section ${file})
	install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
	file(STRINGS ${page} name_lines REGEX "^[a-z_0-9, ]+ ..?- ")
	foreach(line ${name_lines})
		string(REGEX REPLACE " ..?- .*" "" names "${line}")
		string(REGEX REPLACE ", *" ";" names "${names}")
		foreach(name ${names})
			if(NOT "${name}.${section}" STREQUAL "${file}")
				file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/man/${name}.${section} CONTENT ".so man${section}/${file}\n")
				install(FILES ${CMAKE_BINARY_DIR}/man/${name}.${section} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
			endif()
		endforeach()
	endforeach()
endforeach()
