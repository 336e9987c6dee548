"""Images with ground truth and predictions, as picture files and as a page to leaf through."""
