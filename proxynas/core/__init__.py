"""What every stage stands on and none owns: errors, seeds, files, settings, hardware, run
directories, progress."""
