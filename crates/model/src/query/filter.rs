//! The filter language of queries: JSON arrays such as `["&", ["==", "name", "web1"], ["?", "master"]]`.
