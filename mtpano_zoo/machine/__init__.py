"""What this process may use of the machine, and how processes and threads share the work."""
