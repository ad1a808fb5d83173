"""The frame of the dashboard: navigation, selections, the job panel and the pieces several pages use."""
