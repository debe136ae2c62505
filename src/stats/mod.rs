//! Counters and latency histograms as plain data.
