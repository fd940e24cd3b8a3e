"""How any process is configured and observed: settings, logs, metrics. Nothing here knows about leaderboards."""
