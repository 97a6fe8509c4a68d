"""Floor 5: the page in the browser, and pictures of what the stack sees."""
