"""What AMD's RDNA3 and RDNA4 cards look like: registers, mailboxes, packets, page tables, code."""
