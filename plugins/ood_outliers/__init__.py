"""Known outliers: pretext tasks `outlier-exposure` and `energy-exposure`, scorer `few-shot-head`."""
