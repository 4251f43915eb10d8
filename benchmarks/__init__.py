"""What Dovetail costs, measured against what else would do the job, in one run."""
