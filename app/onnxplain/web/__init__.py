"""HTTP and nothing else: routes, wire types, and the one table that maps domain errors to statuses."""
