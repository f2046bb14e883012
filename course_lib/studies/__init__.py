"""What the chapters' SHIPPED and STUDIES run: everything that needs data, training and metrics at once."""
