"""What short verbs of the command line do, one file per verb; `verbs` has their options."""
