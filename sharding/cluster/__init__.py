"""The Redis Cluster as a whole: forming it (`formation`, `executor`) and talking to it (`client`, `breaker`)."""
