"""Evidence of enclaves and confidential virtual machines: authentic, and acceptable?"""
