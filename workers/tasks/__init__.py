"""The tasks, by subject. Each says at its head what it does when it runs late, twice, or beside itself."""
