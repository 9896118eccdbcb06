//! One struct per event, and the one table of metric names and units.
