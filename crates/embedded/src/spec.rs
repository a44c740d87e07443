//! Turns what the configuration says of an instance into what a node is told: parameters filled, names for UUIDs.
