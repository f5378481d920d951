"""`rlvr plan`: memory, time and cost of a recipe on a cluster, before anything is rented."""
