"""The read-only web page that shows the progress, the queue, failures and results of sweeps."""
