"""What short verbs do that need one file; larger ones have packages of their own, and `verbs` has all options."""
