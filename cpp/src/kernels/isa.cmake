# The kernels' build rules: exact arithmetic everywhere, and for each instruction set its own files,
# which alone see its flags. dispatch.cc calls them only where the processor has the instructions.
option(WEIGHTLIFT_PORTABLE "Leave out the kernels written for particular instruction sets" OFF)

# Every instruction set must give the same bits, so a * b + c stays two roundings. Nobody looks at
# floating-point exceptions, which lets compilers vectorise conditional arithmetic.
set(kernel_options -ffp-contract=off -fno-trapping-math -fno-math-errno)
set(portable_files ${core_sources})
list(FILTER portable_files INCLUDE REGEX /src/kernels/)
set_source_files_properties(${portable_files} PROPERTIES COMPILE_OPTIONS "${kernel_options}")

# weightlift_isa_file(FILE FLAG...): adds src/kernels/FILE, compiled with the flags.
function(weightlift_isa_file file)
  target_sources(weightlift_core PRIVATE src/kernels/${file})
  set_source_files_properties(src/kernels/${file}
                              PROPERTIES COMPILE_OPTIONS "${kernel_options};${ARGN}")
endfunction()

if(WEIGHTLIFT_PORTABLE)
  message(STATUS "Kernels: portable only")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  target_compile_definitions(weightlift_core PRIVATE WEIGHTLIFT_HAVE_X86_KERNELS)
  set(avx2 -mavx2 -mfma -mf16c -mbmi2)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    # GCC 12's own headers make undefined registers by reading an uninitialised variable.
    list(APPEND avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  weightlift_isa_file(x86/sse42.cc -msse4.2)
  weightlift_isa_file(x86/pclmul.cc -msse4.2 -mpclmul)
  weightlift_isa_file(x86/avx2.cc ${avx2})
  weightlift_isa_file(x86/avx512.cc ${avx512})
  weightlift_isa_file(x86/vpclmul.cc ${avx512} -mpclmul -mvpclmulqdq)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  target_compile_definitions(weightlift_core PRIVATE WEIGHTLIFT_HAVE_ARM_KERNELS)
  weightlift_isa_file(arm/neon.cc)
  weightlift_isa_file(arm/crc.cc -march=armv8-a+crc)
endif()
