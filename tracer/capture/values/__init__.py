"""What stands for a value while a forward is traced, and the accounts that a capture keeps of its values.

Knows the capture only as a recorder, memory and the edge; nothing but the capture imports it.
"""
