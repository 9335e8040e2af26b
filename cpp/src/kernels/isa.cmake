# The kernels' build rules: exact arithmetic everywhere, and one file for each instruction set.
option(WEIGHTLIFT_PORTABLE "Leave out the kernels written for particular instruction sets" OFF)

# Every instruction set must give the same bits, so a * b + c stays two roundings.
target_compile_options(weightlift_core PRIVATE -ffp-contract=off)
