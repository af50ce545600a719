"""What both sides know, without work behind it: errors, cards, tasks, methods, options, prices, documents. Imports nothing of ours."""
