"""Progress, files and ranks: helpers that know nothing of models and import no torch."""
