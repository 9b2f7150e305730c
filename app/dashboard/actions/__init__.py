"""The work behind the pages: making runs, simulating, recommending, generating, exporting."""
