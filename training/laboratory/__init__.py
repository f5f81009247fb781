"""The laboratory: experiments as small files, every figure as a row, tables and plots made from the rows."""
