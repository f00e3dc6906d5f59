"""Behind tests/bench/run.sh: which benchmarks there are, and how they are told to run."""

import bench
import kafka

bench.main({**bench.BENCHES, **kafka.BENCHES})
